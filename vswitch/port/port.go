// Package port is where packets enter and leave the switch: the Port interface
// and its drivers, one file each. A driver turns whatever its system offers (a
// TAP with vnet headers, a unix socket of a virtual machine, a pipe in memory)
// into batches of packets, and cuts superpackets and completes checksums for a
// peer that cannot.
//
// Drivers know nothing of addresses, routes or policy. A port is read by one
// worker at a time and may be written by several at once.
package port

import (
	"errors"

	"vswitch/vswitch/packet"
)

// ErrClosed is returned by operations on a port that was closed, by us or by
// its other end. The port delivers nothing any more.
var ErrClosed = errors.New("port closed")

// Port is one attachment of the switch. Implementations also implement either
// Pollable or Notifier, so that a worker can wait for them.
type Port interface {
	// Read appends waiting frames to b, at most max of them and only while b
	// is not full, and returns how many. It never blocks: (0, nil) says that
	// nothing waits. It sets the offload fields of each packet, nothing else.
	// Frames are whole Ethernet frames without FCS; a driver of an L3 device
	// adds the header.
	Read(b *packet.Batch, max int) (int, error)

	// Write sends the packets of b that idx names, in that order. Any packet
	// is accepted, superpackets and trains included: what the other end
	// cannot take is cut and completed here. The bytes have been copied when
	// Write returns; the headers in b may have been overwritten. It never
	// blocks: packets that find the queue full are dropped. It returns how
	// many packets were sent; a non-nil error says that the port is dead.
	Write(b *packet.Batch, idx []uint16) (int, error)

	// MTU returns the largest IP packet in bytes that the other end takes;
	// superpackets may be larger.
	MTU() int

	// Close ends the port and wakes its waiter. It may be called more than once.
	Close() error
}

// Pollable is a port whose readiness the kernel knows.
type Pollable interface {
	// FD returns the non-blocking descriptor to poll for reading. It stays
	// open until Close.
	FD() int
}

// Burster is a port that takes all that waits with one system call: to ask it
// for many frames where few wait costs nothing.
type Burster interface {
	// Burst marks the port; it does nothing.
	Burst()
}

// Notifier is a port that says itself when it has something to read.
type Notifier interface {
	// Notify sets the function that the port calls, from any goroutine, when
	// a Read may find something. It is called at least once after each
	// transition from empty to not empty and after Close. It does not block.
	// A port that already holds frames calls it at once.
	Notify(wake func())
}
