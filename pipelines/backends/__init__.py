"""Ways to render the table: one module each, named by `pipelines.build.BACKENDS`."""
