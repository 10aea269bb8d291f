package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"vswitch/vswitch/agent"
)

// healthNames are the values of HealthCheckResponse.ServingStatus
// (grpc.health.v1).
var healthNames = [...]string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}

const serving = 1

// askGRPC finds a container healthy if its gRPC server says of a service that it is
// serving (pkg/probe/grpc): one call of grpc.health.v1.Health/Check, over HTTP/2
// without TLS.
func askGRPC(ctx context.Context, dial dialer, service, addr string) finding {
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+addr+"/grpc.health.v1.Health/Check", bytes.NewReader(healthRequest(service)))
	if err != nil {
		return finding{noAnswer, err.Error()}
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	req.Header.Set("User-Agent", "vswitch-probe/"+agent.Version)
	transport := &http.Transport{DialContext: dial, DisableCompression: true, Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return finding{sick, addr + ": " + err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return finding{sick, fmt.Sprintf("%s: %v", addr, err)}
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/grpc") {
		return finding{sick, fmt.Sprintf("%s says %s, and speaks no gRPC", addr, resp.Status)}
	}
	// What is refused at once has its status in the header (trailers only).
	code := cmp.Or(resp.Trailer.Get("Grpc-Status"), resp.Header.Get("Grpc-Status"))
	if code != "0" {
		text, _ := url.PathUnescape(cmp.Or(resp.Trailer.Get("Grpc-Message"), resp.Header.Get("Grpc-Message")))
		if code == "12" {
			text = "it has no health service (grpc.health.v1)"
		}
		return finding{sick, strings.TrimSuffix(fmt.Sprintf("%s says gRPC status %s: %s", addr, cmp.Or(code, "none"), firstLine([]byte(text))), ": ")}
	}
	status, err := healthStatus(body)
	switch {
	case err != nil:
		return finding{sick, fmt.Sprintf("%s: %v", addr, err)}
	case status == serving:
		return finding{outcome: healthy}
	case status < uint64(len(healthNames)):
		return finding{sick, fmt.Sprintf("%s says %s", addr, healthNames[status])}
	}
	return finding{sick, fmt.Sprintf("%s says health status %d", addr, status)}
}

// healthRequest is a HealthCheckRequest, a message with the service as its field 1,
// in a frame: whether it is compressed, and its length.
func healthRequest(service string) []byte {
	var m []byte
	if service != "" {
		m = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service))), service...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

var errNoHealth = errors.New("its answer is no HealthCheckResponse")

// healthStatus reads field 1, a number, of the HealthCheckResponse in a frame.
// Without it, it is 0.
func healthStatus(frame []byte) (status uint64, err error) {
	if len(frame) < 5 || frame[0] != 0 || int(binary.BigEndian.Uint32(frame[1:])) != len(frame)-5 {
		return 0, errNoHealth
	}
	for m := frame[5:]; len(m) > 0; {
		key, n := binary.Uvarint(m)
		if n <= 0 {
			return 0, errNoHealth
		}
		m = m[n:]
		v, n := binary.Uvarint(m) // of a string or message, its length
		switch {
		case key&7 == 1 && len(m) >= 8:
			n = 8
		case key&7 == 5 && len(m) >= 4:
			n = 4
		case n <= 0:
			return 0, errNoHealth
		case key == 1<<3:
			status = v
		case key&7 == 2 && v <= uint64(len(m)-n):
			n += int(v)
		case key&7 != 0:
			return 0, errNoHealth
		}
		m = m[n:]
	}
	return status, nil
}
