package trace

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxLine bounds a line of probes, bytes.
const maxLine = 1 << 20

// Probes reads a Probe a line from r, as JSON, and writes the Result of each as
// a line to w before it reads the next. What a probe does not say is as in
// defaults. Empty lines are skipped. The first line that is at fault ends it
// with an *InputError that begins with name and the line's number.
func (c *Cluster) Probes(ctx context.Context, name string, r io.Reader, w io.Writer, defaults Probe) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	number := 0
	for lines.Scan() {
		number++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		p := defaults
		if err := decode(line, &p); err != nil {
			return bad("%s:%d: %v", name, number, err)
		}
		result, err := c.Trace(ctx, p)
		if in := (*InputError)(nil); errors.As(err, &in) {
			return bad("%s:%d: %v", name, number, err)
		} else if err != nil {
			return fmt.Errorf("%s:%d: %w", name, number, err)
		}
		if err := out.Encode(result); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return bad("%s:%d: the line is longer than %d bytes", name, number+1, maxLine)
	} else if err != nil {
		return fmt.Errorf("%s:%d: %w", name, number+1, err)
	}
	return nil
}

// decode reads one JSON object, strictly.
func decode(line []byte, p *Probe) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	var wrong *json.UnmarshalTypeError
	switch err := d.Decode(p); {
	case errors.As(err, &wrong) && wrong.Field != "":
		return fmt.Errorf("field %q must be a string, not %s", wrong.Field, wrong.Value)
	case errors.As(err, &wrong) || err == nil && line[0] != '{':
		return errors.New(`not a JSON object such as {"from":"x/a","to":"x/b:80"}`)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON object does not end on this line")
	case err != nil:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	case d.InputOffset() != int64(len(line)):
		return errors.New("more than one JSON object on a line")
	case p.From == "":
		return errors.New(`field "from" is missing`)
	case p.To == "":
		return errors.New(`field "to" is missing`)
	}
	return nil
}
