"""Stand-ins for the services that the system calls; tests use them too."""
