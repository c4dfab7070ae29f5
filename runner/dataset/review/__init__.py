"""Human review of a data set: decisions and the review page. The only room that imports NiceGUI."""
