"""The same work with other tools, each written as its users would, and kept small."""
