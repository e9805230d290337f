"""A gallery on disk: index, search, identities, and a threshold without labels."""
