/* SPDX-License-Identifier: BSD-2-Clause */
/* Floating-point kernels, included by several C files with different SFX and
 * compiler flags so that the same source gives scalar SSE2, packed SSE2 and
 * AVX2+FMA code. */
#include <math.h>
#include <string.h>
#define CAT_(a, b) a##b
#define CAT(a, b)  CAT_(a, b)
#define N_MM	   256
double CAT(matmul_, SFX)(int reps)
{
	static double a[N_MM][N_MM], b[N_MM][N_MM], c[N_MM][N_MM];
	double sum = 0;
	for (int i = 0; i < N_MM; i++)
		for (int j = 0; j < N_MM; j++) {
			a[i][j] = (i * 7 + j * 3) % 17 * 0.25;
			b[i][j] = (i * 5 + j * 11) % 13 * 0.5;
		}
	for (int r = 0; r < reps; r++) {
		memset(c, 0, sizeof c);
		for (int i = 0; i < N_MM; i++)
			for (int k = 0; k < N_MM; k++) {
				double x = a[i][k];
				for (int j = 0; j < N_MM; j++)
					c[i][j] += x * b[k][j];
			}
		a[r % N_MM][r % N_MM] += 1.0;
		sum += c[(r * 31) % N_MM][(r * 17) % N_MM];
	}
	return sum;
}
struct body {
	double x, y, z, vx, vy, vz, m;
};
double CAT(nbody_, SFX)(int steps)
{
	struct body b[5] = {{0, 0, 0, 0, 0, 0, 39.47},
			    {4.84, -1.16, -.10, .606, 2.81, -.02, .037},
			    {8.34, 4.12, -.4, -1.01, 1.82, .008, .011},
			    {12.89, -15.11, -.22, 1.08, .868, -.01, .0017},
			    {15.37, -25.9, .179, .979, .594, -.034, .002}};
	for (int s = 0; s < steps; s++) {
		for (int i = 0; i < 5; i++)
			for (int j = i + 1; j < 5; j++) {
				double dx = b[i].x - b[j].x, dy = b[i].y - b[j].y, dz = b[i].z - b[j].z;
				double d2 = dx * dx + dy * dy + dz * dz;
				double mag = 0.001 / (d2 * sqrt(d2));
				b[i].vx -= dx * b[j].m * mag;
				b[i].vy -= dy * b[j].m * mag;
				b[i].vz -= dz * b[j].m * mag;
				b[j].vx += dx * b[i].m * mag;
				b[j].vy += dy * b[i].m * mag;
				b[j].vz += dz * b[i].m * mag;
			}
		for (int i = 0; i < 5; i++) {
			b[i].x += 0.001 * b[i].vx;
			b[i].y += 0.001 * b[i].vy;
			b[i].z += 0.001 * b[i].vz;
		}
	}
	double e = 0;
	for (int i = 0; i < 5; i++)
		e += b[i].x + b[i].y * 2 + b[i].vx * 3;
	return e;
}
