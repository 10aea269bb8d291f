package lab

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A shim reports to the supervisor over a socket pair, a datagram each: first
// its mount namespace, as a descriptor, then an error if there is one. The
// exec of the command closes its end.

const reportMounts = "mounts"

// reportPair returns the supervisor's end and the shim's.
func reportPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "report"), os.NewFile(uintptr(fds[1]), "report")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// receiveReports reads until the shim has become its command, or is dead.
func receiveReports(conn *net.UnixConn) (mounts *os.File, problem string) {
	data := make([]byte, 64<<10)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(data, oob)
		if err != nil || n == 0 {
			return mounts, problem
		}
		if files := receivedFiles(oob[:oobn]); len(files) == 1 && mounts == nil {
			mounts = files[0]
		} else {
			closeAll(files)
		}
		if text := string(data[:n]); text != reportMounts {
			problem = text
		}
	}
}

// receivedFiles returns the files of a control message.
func receivedFiles(oob []byte) (files []*os.File) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files
}

// report sends text, and a file with it if there is one.
func report(text string, file *os.File) error {
	var oob []byte
	if file != nil {
		oob = unix.UnixRights(int(file.Fd()))
	}
	return unix.Sendmsg(fdReport, []byte(text), oob, nil, 0)
}

// sendMounts reports the mount namespace of this process.
func sendMounts() error {
	ns, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return errors.New("/proc cannot be read: " + err.Error())
	}
	defer ns.Close()
	return report(reportMounts, ns)
}
