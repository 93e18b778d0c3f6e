"""What a process has to do with those that started it and that it starts: its first word, its last, its grant, its
end."""
