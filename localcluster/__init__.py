"""A real control plane on one machine: built from Go modules, started on loopback, ended by process id."""
