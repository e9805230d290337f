"""A page for an index: search by picture, correct identities; needs the extra ``serve``."""
