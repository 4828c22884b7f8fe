// SPDX-License-Identifier: BSD-2-Clause
// Hot loops over numbers, objects whose shape changes (code is thrown away and made again), closures, typed arrays.
'use strict';
const crypto = require('crypto');

function sieve(limit) {
	const composite = new Uint8Array(limit + 1);
	let count = 0;
	for (let i = 2; i <= limit; i++) {
		if (composite[i]) continue;
		count++;
		for (let j = i * i; j <= limit; j += i) composite[j] = 1;
	}
	return count;
}

function add(a, b) { return a + b; }

function shapes(rounds) {
	let sum = 0, text = '';
	for (let i = 0; i < rounds; i++) sum = add(sum, i);
	for (let i = 0; i < rounds; i++) sum = add(sum, i / 3);
	for (let i = 0; i < 2000; i++) text = add(text, i % 7);
	for (let i = 0; i < 300; i++) {
		const o = {};
		for (let k = 0; k <= i % 23; k++) o['p' + (k * 7 % 31)] = k * i;
		for (const key in o) sum = add(sum, o[key]);
	}
	return [sum, text.length];
}

function made(count) {
	let sum = 0;
	for (let i = 0; i < count; i++) {
		const f = new Function('x', `let s = 0; for (let k = 0; k < 500; k++) s = (s + x * ${i} + k) % 65521; return s;`);
		for (let k = 0; k < 10; k++) sum += f(k);
	}
	return sum;
}

function matrix(n) {
	const a = new Float64Array(n * n).map((_, i) => Math.sin(i)), b = new Float64Array(n * n).map((_, i) => 1 / (i + 1));
	const c = new Float64Array(n * n);
	for (let i = 0; i < n; i++)
		for (let j = 0; j < n; j++) {
			let s = 0;
			for (let k = 0; k < n; k++) s += a[i * n + k] * b[k * n + j];
			c[i * n + j] = s;
		}
	return c.reduce((x, y) => x + y).toPrecision(15);
}

function words(count) {
	const seen = new Map();
	for (let i = 0, seed = 1; i < count; i++) {
		seed = (seed * 69069 + 1) >>> 0;
		const word = 'w' + (seed >>> 20).toString(36);
		seen.set(word, (seen.get(word) || 0) + 1);
	}
	return [...seen].sort((x, y) => y[1] - x[1] || (x[0] < y[0] ? -1 : 1)).slice(0, 3).join(' ');
}

console.log('sieve', sieve(1000000));
console.log('shapes', ...shapes(400000));
console.log('made', made(300));
console.log('matrix', matrix(120));
console.log('words', words(200000));
console.log('bigint', (3n ** 2000n % (2n ** 127n - 1n)).toString());
console.log('sha', crypto.createHash('sha256').update(JSON.stringify([...Array(5000).keys()].map(x => ({x, y: x / 7})))).digest('hex'));
console.log('regex', 'the quick brown fox '.repeat(2000).replace(/(\w+) (\w+)/g, '$2-$1').match(/[aeiou]{2,}/g)?.length);
