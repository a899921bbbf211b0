package testtool

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

// Ports that no system gives to a connection or to a listener that asks for any: those begin at 32,768.
const (
	firstPort = 20000
	numPorts  = 12000
)

var portsGiven atomic.Int64

// FreePort returns a port that nothing listens on. A port that the system chose could be given to another connection
// before it is used; these are given to nobody else, and to no other test of the process.
func FreePort(t testing.TB) int {
	t.Helper()
	for range numPorts {
		port := firstPort + (os.Getpid()*97+int(portsGiven.Add(1)))%numPorts
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
	t.Fatal("no port is free")
	return 0
}
