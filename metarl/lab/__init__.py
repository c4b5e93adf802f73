"""What an experiment is: its settings, command line, reports and saved runs."""
