-- Renews a lease.
-- ARGV: format version, lease token, lease in ms
local v, s, t = unpack(redis.call('HMGET', KEYS[1], 'v', 's', 't'))
if v ~= ARGV[1] or s ~= 'c' or t ~= ARGV[2] then return {'lost'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'l', string.format('%.0f', now + ARGV[3]))
return {'held'}
