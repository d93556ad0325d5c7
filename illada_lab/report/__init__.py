"""Results on paper: tables, figures, the HTML report and its denoising player."""
