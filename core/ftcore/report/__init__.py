"""What a run leaves for its readers: report.json for programs, report.html for people."""
