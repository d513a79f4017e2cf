"""Access control: which clients may read and write over HTTP."""
