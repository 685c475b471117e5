"""The same work by other means, each as its users would write it, and kept small."""
