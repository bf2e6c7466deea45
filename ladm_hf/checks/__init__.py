"""Does it work here: the demonstration, the environment, the published scores."""
