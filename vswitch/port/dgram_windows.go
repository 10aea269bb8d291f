package port

import "errors"

// Dgram does not exist on Windows.
type Dgram struct{ pump }

// Close implements Port.
func (d *Dgram) Close() error { d.end(true); return nil }

// OpenDgram fails: Windows has unix sockets, but only streams.
func OpenDgram(DgramConfig) (*Dgram, error) {
	return nil, errors.New("datagram port: Windows has no unix datagram sockets: use a stream port")
}
