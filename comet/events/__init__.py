"""What has happened: events as data, as text, in the journal; counts and recovery times made of them."""
