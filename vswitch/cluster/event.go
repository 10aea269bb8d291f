package cluster

import "time"

// Event is something that happened to an object, for people to read (core/v1
// Event). It is no Object: nobody applies one, and no State holds it.
type Event struct {
	// Meta is the event's own. Its namespace is that of the object, or default
	// for one of no namespace.
	Meta
	Object    Ref    `json:"object"`
	ObjectUID string `json:"objectUID,omitempty"`
	// Part is what of the object it is about, such as "spec.containers{web}".
	Part string `json:"part,omitempty"`
	// Node is where it happened; empty: who decides for the cluster tells.
	Node string `json:"node,omitempty"`
	// Warning events say that something is not as it should be, all others
	// that it went well.
	Warning bool      `json:"warning,omitempty"`
	Reason  string    `json:"reason"` // one word
	Message string    `json:"message"`
	Count   int       `json:"count"` // how often it happened
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}

// Type is "Normal" or "Warning".
func (e *Event) Type() string {
	if e.Warning {
		return "Warning"
	}
	return "Normal"
}
