-- SPDX-License-Identifier: BSD-2-Clause
CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, price REAL, kind INTEGER);
CREATE TABLE sale(id INTEGER PRIMARY KEY, item INTEGER, day INTEGER, amount INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
	INSERT INTO item SELECT i, printf('item-%05x', i * 7919 % 65536), i * 1.37 - (i % 13) / 3.0, i % 17 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
	INSERT INTO sale SELECT i, i * 7919 % 20000 + 1, i * 31 % 365, i % 9 + 1 FROM n;
CREATE INDEX sale_item ON sale(item);
CREATE INDEX item_name ON item(name);
SELECT kind, count(*), sum(amount), round(sum(amount * price), 3) FROM sale JOIN item ON item.id = sale.item GROUP BY kind ORDER BY kind;
SELECT day, round(avg(price), 6), max(name), min(length(name)) FROM sale JOIN item ON item.id = sale.item GROUP BY day ORDER BY day;
SELECT count(*) FROM item a WHERE EXISTS (SELECT 1 FROM sale s WHERE s.item = a.id AND s.amount > 7 AND a.name LIKE '%a%1%');
UPDATE item SET price = price * 1.1 WHERE id IN (SELECT item FROM sale WHERE day < 20);
DELETE FROM sale WHERE amount = 3;
SELECT sum(price), sum(id * kind) FROM item;
SELECT name, total(amount) OVER (PARTITION BY kind ORDER BY sale.id ROWS 5 PRECEDING) FROM sale JOIN item ON item.id = sale.item
	WHERE day = 100 ORDER BY name, sale.id LIMIT 200;
SELECT group_concat(substr(name, 6), '') FROM (SELECT name FROM item ORDER BY price DESC LIMIT 500);
PRAGMA integrity_check;
