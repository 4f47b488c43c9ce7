"""Charts, and the page that says how a day's models did."""
