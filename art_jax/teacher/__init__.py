"""What scores passages by how likely they make the question."""
