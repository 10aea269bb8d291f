package lab

import (
	"errors"
	"fmt"
	"net/http"

	"vswitch/vswitch/control"
)

// kindError is a message for people and the sentinel of its kind. It keeps
// both over HTTP.
type kindError struct {
	message string
	kind    error
}

func (e *kindError) Error() string { return e.message }
func (e *kindError) Unwrap() error { return e.kind }

// partialError says that only some of what was asked for was done.
type partialError struct {
	error
	results []control.Result
}

func (e *partialError) Unwrap() error { return e.error }

// failure returns an error of a kind.
func failure(kind error, format string, args ...any) error {
	return &kindError{fmt.Sprintf(format, args...), kind}
}

var kindStatus = []struct {
	err    error
	status int
}{
	{ErrInput, http.StatusBadRequest},
	{ErrNotFound, http.StatusNotFound},
	{ErrConflict, http.StatusConflict},
}

func statusOf(err error) int {
	for _, k := range kindStatus {
		if errors.Is(err, k.err) {
			return k.status
		}
	}
	return http.StatusInternalServerError
}

func errorOf(status int, message string) error {
	for _, k := range kindStatus {
		if status == k.status {
			return &kindError{message, k.err}
		}
	}
	return errors.New(message)
}
