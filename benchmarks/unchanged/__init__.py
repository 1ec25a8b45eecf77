"""Does a restructuring change a number? Runs a list of cases through the command line of two checkouts and compares."""
