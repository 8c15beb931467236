"""Where the clients run: each engine gives the server a Grid whose nodes run our ClientApp."""
