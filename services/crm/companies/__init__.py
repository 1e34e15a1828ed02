"""Companies: the organisations that contacts work for and deals are made with."""
