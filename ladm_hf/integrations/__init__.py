"""The scorer inside other engines: Ray Data and datatrove. Each is an optional extra; none scores by itself."""
