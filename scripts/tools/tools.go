//go:build tools

// Package tools names the programs that scripts/tools.sh builds, so that go.mod and go.sum have what they need.
package tools

import (
	_ "github.com/nats-io/natscli/nats"
	_ "github.com/nats-io/nsc/v2"
)
