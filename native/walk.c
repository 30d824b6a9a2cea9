/* Walkers of length-prefixed chains. Each function has a Python twin that is its specification. */
#include <stdint.h>
