"""Networks as files for other programs, verified before they are put in place."""
