"""Where access tokens are kept between the processes of a host."""
