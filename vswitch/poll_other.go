//go:build !linux

package vswitch

import "errors"

var errNotPollable = errors.New("the port does not notify; on this system every port must")

func newPoller(bool) (poller, error) { return newBellPoller(), nil }
