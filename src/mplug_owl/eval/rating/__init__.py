"""The page on which people grade answers from A to D without knowing whose they are."""
