"""What `import fl_bench` offers to Python and to notebooks."""
