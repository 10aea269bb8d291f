package lab

// Check is one thing that a cluster needs of the machine.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Required is set if no cluster can run without it; the others cost speed
	// or a feature, which Detail names.
	Required bool   `json:"required"`
	Detail   string `json:"detail"`
	Fix      string `json:"fix,omitempty"` // what to do if it is not OK, a sentence
}

// remedy is a cause and what helps against it. Start and Doctor say the same.
type remedy struct{ detail, fix string }

// Error makes a remedy an error.
func (r *remedy) Error() string {
	if r.fix == "" {
		return r.detail
	}
	return r.detail + "; " + r.fix
}
