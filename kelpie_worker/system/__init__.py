"""Linux and the frozen binary: small calls that know nothing of jobs."""
