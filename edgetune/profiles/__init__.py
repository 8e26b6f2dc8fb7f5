"""Device profiles: what this machine's operations cost: measured, stored, and read back as a function."""
