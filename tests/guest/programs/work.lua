-- SPDX-License-Identifier: BSD-2-Clause
-- Calls, tables, strings, closures and floating point; runs in Lua 5.4 and LuaJIT alike.
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end

local function sieve(limit)
	local composite, count = {}, 0
	for i = 2, limit do
		if not composite[i] then
			count = count + 1
			for j = i * i, limit, i do composite[j] = true end
		end
	end
	return count
end

local function words(rounds)
	local seen, seed, parts = {}, 12345, {}
	for i = 1, rounds do
		seed = (seed * 1103515245 + 12345) % 2147483648
		local word = string.format("w%x", seed % 5000)
		seen[word] = (seen[word] or 0) + 1
		if i % 100 == 0 then parts[#parts + 1] = word:upper():gsub("%d", function(d) return "<" .. d .. ">" end) end
	end
	local names = {}
	for name in pairs(seen) do names[#names + 1] = name end
	table.sort(names, function(a, b) return seen[a] ~= seen[b] and seen[a] > seen[b] or seen[a] == seen[b] and a < b end)
	return names[1], seen[names[1]], #names, #table.concat(parts, ",")
end

local function nbody(steps)
	local x, y, vx, vy = 1.0, 0.0, 0.0, 1.0
	for _ = 1, steps do
		local r = math.sqrt(x * x + y * y)
		vx, vy = vx - 0.001 * x / r ^ 3, vy - 0.001 * y / r ^ 3
		x, y = x + 0.001 * vx, y + 0.001 * vy
	end
	return x, y
end

local function queens(n)
	local count, column, up, down = 0, {}, {}, {}
	local function place(row)
		if row > n then count = count + 1 return end
		for c = 1, n do
			if not column[c] and not up[row + c] and not down[row - c + n] then
				column[c], up[row + c], down[row - c + n] = true, true, true
				place(row + 1)
				column[c], up[row + c], down[row - c + n] = nil, nil, nil
			end
		end
	end
	place(1)
	return count
end

print("fib", fib(29))
print("sieve", sieve(600000))
print("words", words(250000))
print("nbody", string.format("%.15g %.15g", nbody(600000)))
print("queens", queens(8))
