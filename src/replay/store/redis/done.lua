-- Records a success under any token, or adds answered requests to the record of one.
-- ARGV: format version, lease token, record in ms, pin, status, answered requests (16 bytes each)
local v, s, t, i = unpack(redis.call('HMGET', KEYS[1], 'v', 's', 't', 'i'))
if v and v ~= ARGV[1] then return {'version', v} end
if s == 'x' then return {'late'} end
local how = 'done'
local known = i or ''
if s ~= 'd' then
  how = (s == 'c' and t == ARGV[2]) and 'held' or 'late'
  redis.call('HSET', KEYS[1], 'v', ARGV[1], 's', 'd', 'p', ARGV[4], 'c', ARGV[5], 'u', '0')
  redis.call('HDEL', KEYS[1], 't', 'l', 'n')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
local news = ''
for at = 1, #ARGV[6], 16 do
  local one = string.sub(ARGV[6], at, at + 15)
  local found = false
  for place = 1, #known, 16 do
    if string.sub(known, place, place + 15) == one then found = true end
  end
  if not found then news = news .. one end
end
if news ~= '' then
  redis.call('HSET', KEYS[1], 'i', string.sub(news .. known, 1, 16 * 64))
end
return {how}
