"""Speed, cost, memory and isolation of Seaway beside other servers and beside what is possible: `make bench`."""
