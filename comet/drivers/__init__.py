"""How each kind of replica is started, observed and signalled."""
