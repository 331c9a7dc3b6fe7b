"""What a user can write: one recipe in four chapters, each mistake with its place."""
