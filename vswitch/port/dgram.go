package port

// DgramConfig describes a datagram port.
type DgramConfig struct {
	// Path of our unix socket. Whoever may send to it is the virtual machine:
	// the permissions of its directory decide.
	Path string
	// Remote is the path of the machine's socket. Empty: whoever sends first
	// is the machine, and after it whoever sends the vfkit magic.
	Remote string
	// Magic sends the vfkit magic to Remote first, as a machine does to a switch.
	Magic bool
	// MTU in bytes of the machine's interface; 0 is 1500.
	MTU int
}
