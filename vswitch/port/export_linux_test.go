package port

// WithoutUSO makes t a TAP of a kernel that takes no UDP superpackets.
func (t *TAP) WithoutUSO() { t.noUSO = true }
