"""A page and an address for a bundle on this machine. No torch here."""
