"""The commands of ``vigie``, one file a noun. Each turns arguments into calls; none holds logic of its own."""
