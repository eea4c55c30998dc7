"""The shipped behaviour policies: small weight files that carry the command that made them."""
