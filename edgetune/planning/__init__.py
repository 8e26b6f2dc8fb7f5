"""From measured costs, the data's shape and a budget to ranked plans; pure arithmetic."""
