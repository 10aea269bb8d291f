package overlay

import (
	"golang.org/x/sys/unix"
)

// notSent deals with run i, which was not sent, and returns how many runs are
// done with.
func (l *Link) notSent(s *sender, q *queue, t *peerTable, fd, i int, errno unix.Errno) int {
	r := &q.runs[i]
	switch errno {
	case unix.EINTR:
		return 0
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		// The queue is full; the rest would not fit either.
		for j := i; j < q.n; j++ {
			l.lost(s, t, &q.runs[j], DropFull, q.runs[j].count)
		}
		return q.n - i
	case unix.EINVAL, unix.EIO, unix.EMSGSIZE:
		if r.count > 1 {
			l.resend(s, q, t, fd, i, errno)
			return 1
		}
	}
	l.lost(s, t, r, dropOf(errno), r.count)
	return 1
}

// resend sends run i, which the kernel refused with errno, in smaller pieces,
// and remembers what it took.
//
// EINVAL: more segments than this kernel knows, or nothing to do with that,
// such as a loopback address that sends to another machine. EIO: the route
// cannot segment, because it encrypts. EMSGSIZE: a segment is larger than the
// MTU of the interface; alone, it is cut into fragments. (udp_send_skb in
// net/ipv4/udp.c; older kernels say EINVAL to all of them.)
func (l *Link) resend(s *sender, q *queue, t *peerTable, fd, i int, errno unix.Errno) {
	r := &q.runs[i]
	to := t.get(r.peer)
	size := 1
	if errno == unix.EINVAL && r.count > maxSegmentsOld {
		size = maxSegmentsOld
	}
	at, left := r.iov, *r
	for left.count > 0 {
		end, piece := q.piece(at, &left, size)
		q.prepare(i, to, at, end, piece.count)
		e := sendmsg(fd, &q.msgs[i])
		switch {
		case e == unix.EINTR:
		case e == 0:
			l.learn(to, errno, size)
			n := tally{packets: uint64(piece.count), bytes: uint64(piece.bytes - piece.count*HeaderLen)}
			if piece.count > 1 {
				n.super = 1
			}
			to.n.tx.add(&n)
			left.count -= piece.count
			left.bytes -= piece.bytes
			at = end
		case size > 1:
			size = 1
		default:
			l.lost(s, t, r, dropOf(e), left.count)
			return
		}
	}
}

// piece returns the first datagrams of what is left of a run, at most size,
// and where their iovecs end.
func (q *queue) piece(at int, left *run, size int) (end int, p run) {
	for p.count < min(size, left.count) {
		want := min(left.size, left.bytes-p.bytes)
		for n := 0; n < want; at++ {
			n += int(q.iovs[at].len)
		}
		p.bytes += want
		p.count++
	}
	return at, p
}

// learn remembers that size datagrams could be sent at once to a peer, where
// more were refused with errno.
func (l *Link) learn(to *peer, errno unix.Errno, size int) {
	switch {
	case errno == unix.EMSGSIZE:
		// It depends on the size of the packets.
	case size == 1:
		to.alone.Store(true)
	case l.segments.Load() > int32(size):
		l.segments.Store(int32(size))
	}
}

// lost counts datagrams of a run that were not sent.
func (l *Link) lost(s *sender, t *peerTable, r *run, d Drop, count int) {
	l.drop(d, count)
	t.get(r.peer).n.errors.Add(uint64(count))
	s.failed |= r.mask
}

func dropOf(errno unix.Errno) Drop {
	switch errno {
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return DropFull
	case unix.EMSGSIZE:
		return DropMessageSize
	case unix.ECONNREFUSED:
		return DropRefused
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL:
		return DropUnreachable
	}
	return DropSend
}
