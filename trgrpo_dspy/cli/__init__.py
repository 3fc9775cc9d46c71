"""The `trgrpo` command: it compiles and measures programs, and shows, changes and ships what was learned."""
